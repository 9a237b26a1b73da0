"""Fifty words of shops in each of thirteen languages, written by hand, each a word by itself."""

WORDS = {
    "Hindi": """
        कुर्ता कुर्ती साड़ी लहंगा चुनरी दुपट्टा सलवार कमीज़ पगड़ी धोती ब्लाउज़ जूता जूती चप्पल सैंडल घड़ी अंगूठी
        हार चूड़ी पायल बिंदी झुमका कंगन चश्मा टोपी मोज़ा दस्ताना स्वेटर शॉल कंबल तकिया चादर पर्दा लाल
        नीला नीली हरा पीला काला सफ़ेद गुलाबी सुनहरा सूती रेशमी ऊनी चमड़ा पुरुष महिला बच्चा छोटा""",
    "Bengali": """
        শাড়ি পাঞ্জাবি কামিজ সালোয়ার ওড়না লুঙ্গি গামছা ধুতি ব্লাউজ জামা প্যান্ট শার্ট কোট সোয়েটার শাল
        জুতা স্যান্ডেল চপ্পল মোজা টুপি ঘড়ি আংটি হার চুড়ি কানের দুল নূপুর চশমা ব্যাগ বেল্ট ছাতা কম্বল
        বালিশ চাদর পর্দা লাল নীল সবুজ হলুদ কালো সাদা গোলাপি বেগুনি সুতি রেশম পশম চামড়া পুরুষ মহিলা
        শিশু""",
    "Tamil": """
        சேலை வேட்டி சட்டை பாவாடை தாவணி ரவிக்கை சுடிதார் துப்பட்டா துண்டு கால்சட்டை காலணி செருப்பு
        தொப்பி கடிகாரம் மோதிரம் வளையல் சங்கிலி கொலுசு காதணி தோடு மூக்குத்தி கண்ணாடி பை குடை போர்வை
        தலையணை திரை விரிப்பு சிவப்பு நீலம் பச்சை மஞ்சள் கருப்பு வெள்ளை இளஞ்சிவப்பு ஊதா பழுப்பு பருத்தி
        பட்டு கம்பளி தோல் ஆண்கள் பெண்கள் குழந்தை சிறிய பெரிய நீண்ட குட்டை புதிய பழைய மென்மை அழகு""",
    "Thai": """
        กางเกง กระโปรง รองเท้า กระเป๋า หมวก ถุงเท้า ถุงมือ แว่นตา นาฬิกา แหวน สร้อย กำไล จี้ เข็มขัด ผ้า
        ผ้าห่ม หมอน ม่าน ร่ม เสื้อ สูท ชุด โบว์ กระดุม ซิป แขน คอ ลาย ดอกไม้ แดง ดำ ขาว เขียว เหลือง น้ำเงิน
        น้ำตาล ชมพู ม่วง ทอง เงิน ฝ้าย ไหม หนัง สตรี ผู้ชาย เด็ก เล็ก ใหญ่ ยาว สั้น ใหม่""",
    "Khmer": """
        អាវ ខោ សំពត់ ស្បែកជើង មួក កាបូប នាឡិកា ចិញ្ចៀន ខ្សែក ក្រវិល វ៉ែនតា ស្រោមដៃ ស្រោមជើង ក្រមា ភួយ ខ្នើយ
        វាំងនន ឆ័ត្រ ក្រហម ខៀវ បៃតង លឿង ខ្មៅ ស ផ្កាឈូក ស្វាយ ត្នោត មាស ប្រាក់ កប្បាស សូត្រ ស្បែក បុរស ស្ត្រី
        កុមារ តូច ធំ វែង ខ្លី ថ្មី ចាស់ ស្អាត ផ្កា ដៃ ក ជើង ក្បាល ពណ៌ ក្រណាត់ ឡេវ""",
    "Burmese": """
        အင်္ကျီ ဘောင်းဘီ လုံချည် ထဘီ ဖိနပ် ဦးထုပ် အိတ် နာရီ လက်စွပ် ဆွဲကြိုး နားကပ် မျက်မှန် လက်အိတ် ခြေအိတ် ခါးပတ် ထီး စောင်
        ခေါင်းအုံး လိုက်ကာ အနီ အပြာ အစိမ်း အဝါ အနက် အဖြူ ပန်းရောင် ခရမ်း အညို ရွှေ ငွေ ချည် ပိုး သားရေ အမျိုးသား
        အမျိုးသမီး ကလေး သေး ကြီး ရှည် တို အသစ် အဟောင်း လှ ပန်း လက် လည်ပင်း ခြေထောက် အရောင် အထည် ကြယ်သီး""",
    "Japanese": """
        ワンピース スカート ブラウス シャツ パンツ ジャケット コート セーター カーディガン
        ドレス スニーカー サンダル ブーツ バッグ リュック 財布 帽子 手袋 靴下 靴 時計 指輪
        ネックレス ピアス 眼鏡 傘 毛布 枕 カーテン 着物 浴衣 帯 赤い 青い 白い 黒い 緑 黄色
        ピンク 紫 茶色 綿 絹 革 女性 男性 子供 小さい 大きい 長袖 半袖 花柄""",
    "Chinese": """
        连衣裙 衬衫 毛衣 外套 大衣 风衣 西装 夹克 牛仔裤 短裤 长裤 短裙 长裙 旗袍 睡衣 内衣
        袜子 手套 帽子 围巾 领带 皮带 皮鞋 凉鞋 拖鞋 靴子 休闲鞋 背包 钱包 手表 戒指 项链
        耳环 手镯 眼镜 雨伞 毛毯 枕头 窗帘 红色 蓝色 绿色 黄色 黑色 白色 粉色 纯棉 真丝 真皮
        女士 男士 儿童""",
    "Arabic": """
        فستان قميص بنطلون تنورة عباية حجاب جلباب معطف سترة حذاء صندل حقيبة قبعة قفاز جورب
        ساعة خاتم عقد سوار قرط نظارة حزام مظلة بطانية وسادة ستارة أحمر أزرق أخضر أصفر أسود
        أبيض وردي بنفسجي بني ذهبي فضي قطن حرير جلد صوف رجالي نسائي أطفال صغير كبير طويل قصير
        جديد مُطَرَّز مَخْمَل""",
    "Hebrew": """
        שמלה חולצה מכנסיים חצאית מעיל סוודר נעליים סנדלים מגפיים תיק כובע כפפות גרביים שעון
        טבעת שרשרת צמיד עגיל משקפיים חגורה מטרייה שמיכה כרית וילון ג'ינס ז'קט אדום כחול ירוק
        צהוב שחור לבן ורוד סגול חום זהב כסף כותנה משי עור צמר גבר אישה ילד קטן גדול ארוך קצר
        חדש שִׂמְלָה""",
    "German": """
        Kleid Kleider Hemd Hose Rock Röcke Mantel Jacke Pullover Strickjacke Schuhe Stiefel
        Sandalen Tasche Hut Mütze Handschuhe Socken Strümpfe Gürtel Uhr Ring Kette Ohrringe
        Brille Regenschirm Decke Kissen Vorhang rot blau grün gelb schwarz weiß rosa lila
        braun golden Baumwolle Seide Leder Wolle Größe klein groß lang kurz neu süß Maßanzug
        Übergröße""",
    "French": """
        robe robes chemise chemisier pantalon jupe manteau veste gilet pull chaussures
        bottes sandales sac chapeau casquette gants chaussettes ceinture montre bague
        collier bracelet lunettes parapluie couverture oreiller rideau rouge bleu vert jaune
        noir blanc rosé violet marron doré coton soie cuir laine été hiver brodé imprimé
        léger côtelé longue courte nouveau garçon""",
    "Spanish": """
        vestido vestidos camisa blusa pantalón falda abrigo chaqueta suéter zapatos botas
        sandalias bolso sombrero gorra guantes calcetines cinturón reloj anillo collar
        pulsera pendientes gafas paraguas manta almohada cortina rojo azul verde amarillo
        negro blanco rosa morado marrón dorado algodón seda cuero lana niño niña pequeño
        grande largo corto nuevo baño mujeres señora""",
}
# Those that are written without spaces.
UNSPACED = ("Thai", "Khmer", "Burmese", "Japanese", "Chinese")


def words_in(language: str) -> list[str]:
    """List the fifty words or a few more of a language."""
    return list(dict.fromkeys(WORDS[language].split()))
